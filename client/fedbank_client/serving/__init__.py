"""``fedbank client serve``: the bank's service for its customers' inquiries over HTTPS.

What is answered, by whom and what is kept of it is ``fedbank.serving``; here are routes, pages and commands.
"""
