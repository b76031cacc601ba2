"""The trainer as a child process of ComfyUI."""
