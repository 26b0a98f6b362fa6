"""The nets of the CIFAR distillation benchmark; each file needs torch alone, so that a student can ship with its source."""
