from google import genai

client = genai.Client()
answer = client.models.generate_content(
    model="gemini-3.8-flash",
    contents="What is the capital of France? Answer in one word.",
    config={"max_output_tokens": 40},
)
print(answer.text)
