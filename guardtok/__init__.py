"""Prepared statements for prompts: who may write which control token, decided by policy and proven on the ids."""
