"""What belongs to people and their devices: accounts, tokens, profiles, account data, push."""
