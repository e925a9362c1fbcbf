"""Fine-tuning: this project's loop and Hugging Face's Trainer with DeepSpeed on the same samples, model and optimiser."""
