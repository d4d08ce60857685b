"""What `dwcp doctor` looks at: `probes` reads the machine, `judge` says what that means, `examine` joins the two."""
