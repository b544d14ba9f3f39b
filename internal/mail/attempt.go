package mail

// An Attempt is a message on its way to some of its recipients at one next hop.
type Attempt struct {
	*Message
	Positions []int // of these recipients in the envelope
	Attempts  int   // made at any of them, this one included
	// Done is told what became of each of them, in the order of Positions; nil if nothing was sent for any of them, for a
	// reason that is not this message's. Content may be read until then.
	Done func(results []Result)
}
