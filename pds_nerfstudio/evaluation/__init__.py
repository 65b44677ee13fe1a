"""How good an edit is, in numbers and in pictures."""
