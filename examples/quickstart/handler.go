package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem"
)

// maxBodyBytes is far more than a charge takes.
const maxBodyBytes = 1 << 16

func newHandler(client *pgidem.Client, pool *pgxpool.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /charges", func(w http.ResponseWriter, r *http.Request) { postCharge(w, r, client) })
	mux.HandleFunc("GET /accounts/{id}", func(w http.ResponseWriter, r *http.Request) { getAccount(w, r, pool) })
	return mux
}

func postCharge(w http.ResponseWriter, r *http.Request, client *pgidem.Client) {
	id := r.Header.Get("Idempotency-Key")
	if id == "" {
		writeProblem(w, problem{Status: http.StatusBadRequest, Title: "the header Idempotency-Key is missing"})
		return
	}
	request, err := decodeCharge(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		writeProblem(w, problem{Status: http.StatusBadRequest, Title: "the body is not a charge", Detail: err.Error()})
		return
	}
	result, err := charge(r.Context(), client, id, request)
	if result.Replayed {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	if err != nil {
		writeError(w, r, err)
		return
	}
	writeJSON(w, "application/json", http.StatusCreated, result.Value)
}

func decodeCharge(body io.Reader) (chargeRequest, error) {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	var request chargeRequest
	err := decoder.Decode(&request)
	switch {
	case err != nil:
		return request, err
	case request.Account == "":
		return request, errors.New("account is empty")
	case request.AmountCents <= 0:
		return request, errors.New("amount_cents is not positive")
	}
	return request, nil
}

func getAccount(w http.ResponseWriter, r *http.Request, pool *pgxpool.Pool) {
	account := struct {
		ID           string `json:"id"`
		BalanceCents int64  `json:"balance_cents"`
	}{ID: r.PathValue("id")}
	err := pool.QueryRow(r.Context(), `SELECT balance_cents FROM accounts WHERE id = $1`, account.ID).Scan(&account.BalanceCents)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		writeError(w, r, errNoAccount)
	case err != nil:
		writeError(w, r, err)
	default:
		writeJSON(w, "application/json", http.StatusOK, account)
	}
}

func writeJSON(w http.ResponseWriter, contentType string, status int, value any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // A client that is gone asks again with its key.
}
