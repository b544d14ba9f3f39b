// Package mail is the vocabulary of the system: queue IDs, envelopes, addresses, status codes and the results of
// delivery attempts, as the RFCs name them. It does no I/O and imports nothing of ours, so that a 5.1.1 means the
// same from the socket that received it to the bounce that reports it.
package mail
