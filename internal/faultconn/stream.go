package faultconn

// frame is a message on its way.
type frame struct {
	Message
	raw    []byte
	batch  []*frame // client only: the frames that were sent with it, up to Sync
	passed bool     // the faults have seen it; raw may be its second half
}

// stream is one direction of a connection: frames that were sent and are not
// yet delivered. Its owner's Read or Write lock guards all but held.
type stream struct {
	splitter
	queue     []*frame
	delivered int    // bytes, ever
	held      *Fault // stops the stream until it is released; guarded by conn.mu
}

// push cuts bytes into frames and puts them in the queue.
func (s *stream) push(b []byte, describe func(rawFrame) Message) ([]*frame, error) {
	raws, err := s.feed(b)
	frames := make([]*frame, len(raws))
	for i, raw := range raws {
		frames[i] = &frame{Message: describe(raw), raw: raw.raw}
	}
	s.queue = append(s.queue, frames...)
	return frames, err
}

// group tells the frames of one Write which batch they belong to.
func group(frames []*frame) {
	start := 0
	for i, f := range frames {
		if f.Type == Sync || f.Type == Query || i == len(frames)-1 {
			for _, g := range frames[start : i+1] {
				g.batch = frames[start : i+1]
			}
			start = i + 1
		}
	}
}

// deliver sends queued frames until there are none or a fault stops it. Frames
// that belong together are sent together, as the client did.
func (s *stream) deliver(c *conn, send func([]byte) error) error {
	var out []byte
	flush := func() error {
		if len(out) == 0 {
			return nil
		}
		err := send(out)
		s.delivered += len(out)
		out = nil
		return err
	}
	for len(s.queue) > 0 && !c.stopped(s) {
		f := s.queue[0]
		var fl *Fault
		if !f.passed {
			fl = c.faults.pass(c, f)
			f.passed = true
		}
		if f.Type == CancelRequest && f.Side == Client && c.faults.refuseCancel.Load() {
			c.reset()
			return c.failure("write")
		}
		n := len(f.raw)
		if fl != nil {
			n = fl.point.When.of(n)
		}
		out = append(out, f.raw[:n]...)
		f.raw = f.raw[n:]
		if len(f.raw) == 0 {
			s.queue = s.queue[1:]
		}
		if fl == nil {
			continue
		}
		err := flush()
		c.strike(fl, s)
		if err != nil {
			return err
		}
		if fl.kind == cut && fl.point.FailWrite {
			return c.failure("write")
		}
	}
	return flush()
}
