package entry

// descriptors is the caller's limit, soft and hard. It is set by point.
var descriptors [2]uint64

//go:noescape
func setDescriptors(limit *[2]uint64)

// Packages that import nothing are initialized in the order of their paths, before those that import something: this one
// before syscall, which keeps the limit for the programs that are started, and raises it for ours.
func init() {
	if descriptors[1] > 0 {
		setDescriptors(&descriptors)
	}
}
