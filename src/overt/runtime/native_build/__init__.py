"""llama.cpp compiled for this processor."""
