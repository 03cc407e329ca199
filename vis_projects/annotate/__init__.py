"""The local page to point at objects in a video, follow them, correct, and take the masks away."""
