// Package lines is the Go clients' side of the line protocol (see ../../../README.md): a request a line in, an answer a
// line out.
package lines

import (
	"bufio"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"time"
)

// Patience is how long one operation may take.
const Patience = 30 * time.Second

// Request is any request of the driver; an operation reads the fields that are its own.
type Request struct {
	Op          string            `json:"op"`
	Topic       string            `json:"topic"`
	Partitions  int               `json:"partitions"`
	Replication *int              `json:"replication"`
	Configs     map[string]string `json:"configs"`
	Count       int               `json:"count"`
	Prefix      *string           `json:"prefix"`
	Compression string            `json:"compression"`
	Acks        string            `json:"acks"`
	Idempotent  bool              `json:"idempotent"`
	Partition   *int              `json:"partition"`
	Timestamp   *int64            `json:"timestamp"`
	Size        *int              `json:"size"`
	Keyless     bool              `json:"keyless"`
	Group       string            `json:"group"`
	Offset      int64             `json:"offset"`
	Others      []int             `json:"others"`
	At          any               `json:"at"`
	Before      int64             `json:"before"`
	Metadata    string            `json:"metadata"`
	Assignor    string            `json:"assignor"`
	Instance    string            `json:"instance"`
	SessionMs   int               `json:"session_ms"`
}

// Key and Value of record i.
func (r *Request) Key(i int) []byte {
	if r.Keyless {
		return nil
	}
	prefix := "r"
	if r.Prefix != nil {
		prefix = *r.Prefix
	}
	return fmt.Appendf(nil, "%s-%d", prefix, i)
}

// Value of record i.
func (r *Request) Value(i int) []byte {
	if r.Size != nil {
		return []byte(strings.Repeat("x", *r.Size))
	}
	return append(append(r.Key(i), '|'), strings.Repeat("x", i*37%1000)...)
}

// Time of record i, or the zero time.
func (r *Request) Time(i int) time.Time {
	if r.Timestamp == nil {
		return time.Time{}
	}
	return time.UnixMilli(*r.Timestamp + int64(1000*i))
}

// Session is a member's session timeout.
func (r *Request) Session() time.Duration {
	if r.SessionMs == 0 {
		return 3 * time.Second
	}
	return time.Duration(r.SessionMs) * time.Millisecond
}

// AtOffset gives what `at` asks for: -2 earliest, -1 latest, else a time in milliseconds.
func (r *Request) AtOffset() int64 {
	switch at := r.At.(type) {
	case float64:
		return int64(at)
	case string:
		if at == "earliest" {
			return -2
		}
	}
	return -1
}

// Row is a record as the driver wants it.
func Row(partition int, offset int64, key, value []byte, at time.Time) []any {
	return []any{partition, offset, string(key), crc32.ChecksumIEEE(value), at.UnixMilli()}
}

// Map is an answer.
type Map = map[string]any

// Operation is one thing a client can do; nil is an empty answer.
type Operation func(*Request) (Map, error)

// Client is what a program offers the driver.
type Client struct {
	Hello      Map
	Operations map[string]Operation
	// Code gives Kafka's code of an error, or nil.
	Code func(error) any
	// Member runs as a member of a group until `leave` is closed.
	Member func(r *Request, leave <-chan struct{}, told *Membership) error
}

// Emit writes a line.
func Emit(line Map) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", text)
}

// Membership tells the driver of a member's assignment when it changes, and of what was read.
type Membership struct{ last []int32 }

// Assigned tells the whole assignment.
func (m *Membership) Assigned(partitions []int32) {
	now := append([]int32{}, partitions...)
	slices.Sort(now)
	if m.last == nil || !slices.Equal(m.last, now) {
		m.last = now
		Emit(Map{"event": "assigned", "partitions": now})
	}
}

// Read tells the keys read.
func (m *Membership) Read(keys ...string) {
	if len(keys) > 0 {
		Emit(Map{"event": "read", "keys": keys})
	}
}

// Serve answers requests until the driver is gone.
func Serve(c Client) {
	ops := []string{}
	for op := range c.Operations {
		ops = append(ops, op)
	}
	if c.Member != nil {
		ops = append(ops, "member")
	}
	slices.Sort(ops)
	c.Hello["ops"] = ops
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r Request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			panic(err)
		}
		switch {
		case r.Op == "hello":
			Emit(Map{"ok": c.Hello})
		case r.Op == "member":
			leave := make(chan struct{})
			go func() {
				in.Scan()
				close(leave)
			}()
			if err := c.Member(&r, leave, &Membership{}); err != nil {
				answer(nil, err, c.Code)
				os.Exit(1)
			}
			os.Exit(0)
		default:
			result, err := c.Operations[r.Op](&r)
			answer(result, err, c.Code)
		}
	}
}

func answer(result Map, err error, code func(error) any) {
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		Emit(Map{"error": code(err), "message": err.Error()})
	case result == nil:
		Emit(Map{"ok": Map{}})
	default:
		Emit(Map{"ok": result})
	}
}
