package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

const manyAddresses = 100_000

// addresses measures reading a list of recipients, as in the header of a mailing.
func addresses(b *bench) error {
	var s strings.Builder
	for n := range manyAddresses {
		fmt.Fprintf(&s, "\"Doe, John\" <user%d@example.org>,\r\n ", n)
	}
	var all []float64
	for range rounds {
		start := time.Now()
		list, err := mail.ParseAddressList(s.String())
		if err != nil || len(list) != manyAddresses {
			return fmt.Errorf("%d addresses, %v", len(list), err)
		}
		all = append(all, milliseconds(time.Since(start)))
	}
	b.row("100,000 recipients, ms", median(all), atMost(200))
	return nil
}
