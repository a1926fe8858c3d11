"""What a call writes together with its outcome: one transaction, lent out in parts."""
