"""The simulator: Meta-World tasks, their scripted experts, cameras, and demonstrations written as a dataset."""
