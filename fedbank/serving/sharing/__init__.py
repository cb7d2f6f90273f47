"""What goes on between two answers: sessions and answers told again, in memory or in Redis."""
