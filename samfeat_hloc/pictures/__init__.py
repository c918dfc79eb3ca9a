"""Pictures of runs, matches and relations."""
