"""The driving world and its observation kernels."""
