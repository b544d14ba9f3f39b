package config

import "github.com/postrider/postrider/internal/submit"

// Host returns what the mending of submissions has to know, whichever program takes them.
func (c *Config) Host() submit.Host {
	return submit.Host{
		Name: c.Hostname, Domain: c.Domain, Local: c.LocalDomains, Rewrite: c.Rewrite, ForceFrom: c.ForceFrom, MaxSize: c.MaxMessageSize,
	}
}
