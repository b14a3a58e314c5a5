"""Files and batches as OpenAI has them: what is decided, without I/O. Storage and running are in io/batches."""
