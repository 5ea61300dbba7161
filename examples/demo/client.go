package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// requestBound is above the 10 s that a request may wait for a key.
const requestBound = 30 * time.Second

// Each request has a connection of its own, so that no layer below repeats one that got no answer.
var caller = &http.Client{Timeout: requestBound, Transport: &http.Transport{DisableKeepAlives: true}}

// answer is what came back for one request.
type answer struct {
	status   int
	header   http.Header
	replayed bool
	body     string
	err      error // none came back
	at       time.Time
}

// post sends a request with an Idempotency-Key.
func post(ctx context.Context, url, key, body string) answer {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	request.Header.Set("Idempotency-Key", key)
	return send(request)
}

func send(request *http.Request) answer {
	response, err := caller.Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{
		status: response.StatusCode, header: response.Header, replayed: response.Header.Get("Idempotent-Replayed") == "true",
		body: strings.TrimSpace(string(text)), err: err, at: time.Now(),
	}
}

// is says what is wrong with an answer, nil when nothing is.
func (a answer) is(status int, replayed bool) error {
	switch {
	case a.err != nil:
		return fmt.Errorf("no answer, %d was expected: %w", status, a.err)
	case a.status != status:
		return fmt.Errorf("the answer is %d, %d was expected: %s", a.status, status, a.body)
	case a.replayed != replayed:
		return fmt.Errorf("the answer says replayed: %v, the other was expected: %s", a.replayed, a.body)
	}
	return nil
}

// has says whether an answer is the one that was given before.
func (a answer) has(body string) error {
	if a.body != body {
		return fmt.Errorf("the answer %s differs from the one given before, %s", a.body, body)
	}
	return nil
}

// code is that of a problem.
func (a answer) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal([]byte(a.body), &problem) // what is no JSON has no code
	return problem.Code
}
