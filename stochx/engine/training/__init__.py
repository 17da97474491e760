"""Training: the loop, its checkpoints, schedules, augmentation and moving average."""
