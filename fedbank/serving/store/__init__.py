"""What a bank keeps of its service: sealed records, batch jobs, feedback, evidence."""
