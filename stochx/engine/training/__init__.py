"""Training: the one loop, its checkpoint, schedule, augmentation and moving average."""
