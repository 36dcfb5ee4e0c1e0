"""Compiled parts of fastvec.gpudrive: between GPUDrive's exported tensors and rows."""
