package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
)

// A Store keeps records in a file, a line of JSON each. Lines are appended whole and are on the disk before Append returns. A
// process that is killed loses no record; of the line that it was writing nothing remains once the store is opened again.
// A job that failed is not finished: its record is kept apart from the others, until there is one without an error.
// It is safe for concurrent use by one process; a second one is kept out where the system has locks for files.
type Store struct {
	mu      sync.Mutex
	file    *os.File
	records []Record
	index   map[string]int    // of records, by ID
	failed  map[string]Record // by ID
	broken  error             // of the last append: what the file ends with is not known
}

// OpenStore opens the store at a path, or makes one. A last line that was not written to its end is dropped, from the file
// too; any other line that is no record is an error.
func OpenStore(path string) (s *Store, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := lock(f); err != nil {
		return nil, fmt.Errorf("%s is in use by another process: %w", path, err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	records, whole, err := parseRecords(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if whole < len(data) {
		if err := f.Truncate(int64(whole)); err != nil {
			return nil, fmt.Errorf("cannot drop the last line of %s, which is not whole: %w", path, err)
		}
	}
	s = &Store{file: f, index: make(map[string]int), failed: make(map[string]Record)}
	for _, r := range records {
		if _, ok := s.index[r.ID]; !ok { // whoever came first
			s.keep(r)
		}
	}
	return s, nil
}

// keep notes a record whose job is not finished. s.mu is held.
func (s *Store) keep(r Record) {
	if r.Error != "" {
		s.failed[r.ID] = r
		return
	}
	delete(s.failed, r.ID)
	s.index[r.ID] = len(s.records)
	s.records = append(s.records, r)
}

// ReadRecords returns the records of a store's file, which may be in use, those of failures included. A last line that is not
// whole is left out.
func ReadRecords(path string) ([]Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	records, _, err := parseRecords(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return records, nil
}

// parseRecords returns the records in a file's content and how many of its bytes are whole lines.
func parseRecords(data []byte) (records []Record, whole int, err error) {
	for line := 1; whole < len(data); line++ {
		end := bytes.IndexByte(data[whole:], '\n')
		if end < 0 {
			break
		}
		next := whole + end + 1
		var r Record
		if err := json.Unmarshal(data[whole:next], &r); err != nil || r.ID == "" {
			if next == len(data) {
				break // the disk kept the length of the file and not what is in it
			}
			if err == nil {
				err = errors.New("it has no id")
			}
			return nil, 0, fmt.Errorf("line %d is no record: %w", line, err)
		}
		records = append(records, r)
		whole = next
	}
	return records, whole, nil
}

// Append adds a record. One whose job is finished already is left out, which is no error: added says so.
func (s *Store) Append(r Record) (added bool, err error) {
	line, err := json.Marshal(r)
	if err != nil {
		return false, fmt.Errorf("eval: record of %s: %w", &r.Job, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broken != nil:
		return false, s.broken
	case r.ID == "":
		return false, fmt.Errorf("eval: record of %s has no ID", &r.Job)
	}
	if _, ok := s.index[r.ID]; ok {
		return false, nil
	}
	if _, err = s.file.Write(append(line, '\n')); err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		s.broken = fmt.Errorf("cannot write %s: %w", s.file.Name(), err)
		return false, s.broken
	}
	s.keep(r)
	return true, nil
}

// Has reports whether the job with an ID is finished.
func (s *Store) Has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.index[id]
	return ok
}

// Failed returns the last records of jobs that failed and are not finished, sorted by ID.
func (s *Store) Failed() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.failed), func(a, b Record) int { return strings.Compare(a.ID, b.ID) })
}

// Records returns the records of finished jobs in the order in which they came. They must not be changed.
func (s *Store) Records() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[:len(s.records):len(s.records)]
}

// Close closes the file.
func (s *Store) Close() error { return s.file.Close() }
