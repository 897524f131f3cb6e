//go:build race

package anchor

// raceEnabled tells that the race detector is on, which makes plain Go twenty times slower.
const raceEnabled = true
