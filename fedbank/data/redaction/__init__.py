"""What finds personal data in an inquiry: one module for each way in which it gives itself away."""
