"""What joins machines into a pool: identity, discovery, membership, election, links."""
