// Package faulttest delivers through servers, name servers and networks that misbehave, and asks of every case the same:
// nothing is lost, nothing is sent twice but where nobody could know, everything ends by itself, and what had to wait
// arrives when all is well again. It holds tests only.
//
// A case is a product of what goes wrong and where, so there is no list of what should come of each: one oracle judges
// them all, by what the log, the queue and the reports say, and what the servers know.
//
// POSTRIDER_PROOF=1 tries whole products; without it a choice is made in which everything that can go wrong does so at least once.
package faulttest
