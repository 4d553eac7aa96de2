"""Neural networks in torch, and what their architectures are called and shaped like elsewhere."""
