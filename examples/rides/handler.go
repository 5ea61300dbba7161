package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// maxBodyBytes is far more than a ride takes.
const maxBodyBytes = 1 << 16

func newHandler(client *pgidem.Client, payments *payments) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /rides", func(w http.ResponseWriter, r *http.Request) { postRide(w, r, client, payments) })
	return mux
}

func postRide(w http.ResponseWriter, r *http.Request, client *pgidem.Client, payments *payments) {
	id := r.Header.Get("Idempotency-Key")
	if id == "" {
		writeProblem(w, problem{Status: http.StatusBadRequest, Title: "the header Idempotency-Key is missing"})
		return
	}
	request, err := decodeRide(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		writeProblem(w, problem{Status: http.StatusBadRequest, Title: "the body is not a ride", Detail: err.Error()})
		return
	}
	b, err := book(r.Context(), client, payments, id, request)
	writeHistory(w.Header(), b)
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeJSON(w, "application/json", http.StatusCreated, b.Value)
}

// writeHistory tells how the answer came about. A client does not need it; who watches crashes does.
func writeHistory(h http.Header, b booking) {
	if b.Replayed {
		h.Set("Idempotent-Replayed", "true")
	}
	if b.Attempt > 0 {
		h.Set("Operation-Attempt", strconv.Itoa(b.Attempt))
	}
	if b.ResumedAfter != "" {
		h.Set("Operation-Resumed-After", b.ResumedAfter)
	}
	if !b.claimed.IsZero() {
		h.Set("Operation-Claimed-At", b.claimed.UTC().Format(time.RFC3339Nano))
	}
}

func decodeRide(body io.Reader) (rideRequest, error) {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	var request rideRequest
	err := decoder.Decode(&request)
	switch {
	case err != nil:
		return request, err
	case request.Customer == "":
		return request, errors.New("customer is empty")
	case request.Origin == "" || request.Destination == "":
		return request, errors.New("origin or destination is empty")
	}
	return request, nil
}

func writeJSON(w http.ResponseWriter, contentType string, status int, value any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // A client that is gone asks again with its key.
}
