"""How the release becomes Parquet: plan, shards, ledgers, card."""
