from anthropic import Anthropic

answer = Anthropic().messages.create(
    model="claude-opus-5-5",
    max_tokens=40,
    messages=[{"role": "user", "content": "What is the capital of France? Answer in one word."}],
)
print(answer.content[0].text)
