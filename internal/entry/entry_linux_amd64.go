package entry

// descriptors is the caller's limit, soft and hard. It is set by point.
var descriptors [2]uint64

//go:noescape
func setDescriptors(limit *[2]uint64)

// Of the packages whose imports are initialized, the one with the first path is next (the Go Programming Language
// Specification, Program initialization). This one imports nothing, so it comes before syscall, which keeps the limit for
// the programs that are started, and raises it for ours.
func init() {
	if descriptors[1] > 0 {
		setDescriptors(&descriptors)
	}
}
