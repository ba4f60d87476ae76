"""Parts of the models that run on CUDA devices: kernels written in Triton, and streams for work side by side."""
