"""What is found in a model: traces, gradient flow, parity, memory needs."""
