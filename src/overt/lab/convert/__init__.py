"""Safetensors to GGUF and back; LoRA adapters between their formats."""
