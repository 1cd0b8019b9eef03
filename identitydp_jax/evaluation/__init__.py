"""What an anonymization hides and keeps, as the paper measures it and as an attacker would."""
