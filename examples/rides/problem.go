package main

import (
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// problem is the body of an answer that is not a success (RFC 9457, the fields that are needed here).
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
	// Code is for programs; only saved failures have one.
	Code string `json:"code,omitempty"`
}

// What an operation's errors mean to a client. What is not here is a fault of this server: 500.
// With 409 and 503 the client asks again with the same key, here or at another server.
var answers = []struct {
	err    error
	status int
}{
	{pgidem.ErrInvalidKey, http.StatusBadRequest},         // the key is too long, or not text
	{pgidem.ErrInProgress, http.StatusConflict},           // somebody else runs it
	{pgidem.ErrKeyReused, http.StatusUnprocessableEntity}, // for another request: never
	{pgidem.ErrClosed, http.StatusServiceUnavailable},     // this server is being stopped, the others go on
	{pgidem.ErrTakenOver, http.StatusServiceUnavailable},  // another server goes on already
	{errProvider, http.StatusServiceUnavailable},          // the charge is asked for again
	{pgidem.ErrUndoing, http.StatusServiceUnavailable},    // it has failed, and the ride is not cancelled yet
	{pgidem.ErrParked, http.StatusServiceUnavailable},     // somebody of ours has to decide
	{pgidem.ErrUnknownOutcome, http.StatusServiceUnavailable},
	{pgidem.ErrUnavailable, http.StatusServiceUnavailable},
	{pgidem.ErrReadOnly, http.StatusServiceUnavailable},
}

// retryAfter is what a client is told to wait where the library gives no hint.
const retryAfter = time.Second

func writeError(w http.ResponseWriter, r *http.Request, err error) {
	var failure *pgidem.Failure
	if errors.As(err, &failure) {
		writeProblem(w, problem{Status: http.StatusPaymentRequired, Title: failure.Message, Code: failure.Code})
		return
	}
	if r.Context().Err() != nil {
		return // nobody listens
	}
	p := problem{Status: http.StatusInternalServerError}
	for _, a := range answers {
		if errors.Is(err, a.err) {
			p = problem{Status: a.status, Title: a.err.Error()}
			break
		}
	}
	if p.Status >= http.StatusInternalServerError { // causes may name hosts and users: for the log only
		slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "status", p.Status, "error", err)
		p.Title = http.StatusText(p.Status)
	}
	var why *pgidem.Error
	if errors.As(err, &why) && p.Status < http.StatusInternalServerError {
		p.Detail = why.Reason
	}
	if p.Status == http.StatusConflict || p.Status == http.StatusServiceUnavailable {
		wait := retryAfter
		if why != nil && why.RetryAfter > 0 {
			wait = why.RetryAfter
		}
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	writeProblem(w, p)
}

func writeProblem(w http.ResponseWriter, p problem) {
	writeJSON(w, "application/problem+json", p.Status, p)
}
