package faultconn

import (
	"sync"
	"time"
)

// deadline is what SetReadDeadline sets, for a Read that waits for a test
// instead of for the socket. The zero value never expires.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // closed when the time has come; nil: never
	changed chan struct{} // closed by the next set
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop() // a timer that runs already closes its own, old channel
	}
	if d.changed != nil {
		close(d.changed)
	}
	d.timer, d.expired, d.changed = nil, nil, nil
	if t.IsZero() {
		return
	}
	expired := make(chan struct{})
	d.expired = expired
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(expired) })
	} else {
		close(expired)
	}
}

// wait returns the channels to select on; after changed is closed, ask again.
func (d *deadline) wait() (expired, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.expired, d.changed
}
