"""From videos to training items: which frames, in what order, read and augmented how."""
