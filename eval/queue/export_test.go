package queue

import "time"

// SetAbandoned sets the time after which runs without a reader are deleted, and returns what sets it back.
func SetAbandoned(d time.Duration) (back func()) {
	before := abandoned
	abandoned = d
	return func() { abandoned = before }
}
