"""One trainer for pre-training, continued pre-training, supervised fine-tuning and adapters."""
