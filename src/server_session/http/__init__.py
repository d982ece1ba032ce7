"""HTTP as sessions need it: requests, responses, cookies, bodies, and the exchange of one for the other."""
