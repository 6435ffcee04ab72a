"""From logits to tokens: masks, penalties, filters and draws of a whole batch."""
