"""The torch parts on CUDA. Each test runs on the processor too, on the same small shapes."""
