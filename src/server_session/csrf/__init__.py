"""The check for requests that another site may have forged: policy, verdict, tokens' places, what endpoints ask."""
