"""What converted networks learn, on real data that packages ship, beside other methods of continual learning."""
