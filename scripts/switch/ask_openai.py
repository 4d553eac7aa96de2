from openai import OpenAI

answer = OpenAI().responses.create(
    model="gpt-6.1-sol",
    input="What is the capital of France? Answer in one word.",
    max_output_tokens=40,
)
print(answer.output_text)
