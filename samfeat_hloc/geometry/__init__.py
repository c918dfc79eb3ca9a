"""Changes of view and of light, as arrays; of training and of evaluation."""
