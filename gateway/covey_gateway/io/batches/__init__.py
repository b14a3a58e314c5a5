"""Files and batches as OpenAI has them: the disk, the running of lines, and the doors. Decisions: core/batches."""
